"""Run directories: their names, their files, who holds them. No torch, no Hydra."""
