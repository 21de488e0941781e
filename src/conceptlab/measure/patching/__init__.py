"""What happens to the answer when one place holds what it holds on another text."""
