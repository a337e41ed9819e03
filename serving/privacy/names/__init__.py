"""Names of people, places and organisations: the models and the rules that find them."""
