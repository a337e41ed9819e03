"""`/admin/v1`: tenants, keys, limits, budgets, usage and the audit, for keys of role `admin`."""
