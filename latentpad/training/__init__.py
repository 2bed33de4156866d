"""Training: collate, learner (the only reducer), checkpoints, and one loop a method."""
