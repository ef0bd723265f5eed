"""Training and testing: where model, loss, optimizer and data meet. `training.fit` is the way in."""
