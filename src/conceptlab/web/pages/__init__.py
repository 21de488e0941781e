"""One file a page: a function of the query and of what the desk holds."""
