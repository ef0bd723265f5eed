"""Launchers, sweepers and search path for Hydra, which imports every module here at each start: they stay light."""
