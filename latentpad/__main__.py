"""`python -m latentpad`."""

from latentpad.cli import main

raise SystemExit(main())
