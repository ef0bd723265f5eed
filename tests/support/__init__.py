"""What several test modules use: references, generators of inputs, small runs and data sets."""
