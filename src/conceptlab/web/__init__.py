"""`conceptlab view`: a local web application over atlases, with the live model behind it."""
