"""Search of settings by validation, with equal budgets."""
