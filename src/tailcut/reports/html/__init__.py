"""One HTML page about runs and networks: a module for each section, and the elements that they are made of."""
