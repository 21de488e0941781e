"""What a store promises, held against kills, flipped bytes, failing disks and other writers; `python -m tests.reliability` runs the
long forms, the tests of this folder short ones."""
