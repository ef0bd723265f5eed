"""Images and labels: sources, splits, decoding, batches and augmentation. Only `datamodule` knows Lightning."""
