"""Many processes of one run: who there is, what each holds, how a step is shared out, and how they end together."""
