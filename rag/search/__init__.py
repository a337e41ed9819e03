"""From a question to passages: filters, fusion, permissions, and passages put into a prompt."""
