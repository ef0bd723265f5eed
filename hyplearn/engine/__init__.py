"""Training and evaluation: where model, loss, optimizer and data meet. `engine.run` is the way in."""
