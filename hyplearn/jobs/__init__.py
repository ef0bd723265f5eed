"""Many runs: sweeps, tables of the papers, searches of settings, each run in a process of its own."""
