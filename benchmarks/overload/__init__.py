"""What more load than fits does to good answers and to other tenants."""
