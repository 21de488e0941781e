"""`make bench`: what the package costs beside a bare Hugging Face forward, scikit-learn and its peers, in one run and one table."""
