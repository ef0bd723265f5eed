"""Which images make a batch, and what is done to it: splits, samplers, crops, augmentation."""
