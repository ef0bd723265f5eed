"""The configuration files of the package, a folder for each group; the entry point in pyproject.toml names it."""
