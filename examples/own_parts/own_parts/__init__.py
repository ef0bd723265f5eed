"""Parts of one's own for hyplearn. This file imports nothing: hyplearn looks for `own_parts.configs` at each start."""
