"""From what a user typed to checked objects: composition, types, ranges, compatibility."""
