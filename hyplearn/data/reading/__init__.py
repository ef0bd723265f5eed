"""Files to pixels: downloads, formats, decoding, outside of the training loop or in worker processes."""
