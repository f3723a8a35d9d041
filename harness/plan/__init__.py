"""From a request to cells and their stages."""
