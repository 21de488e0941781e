"""What sweeps and harvests cost on one GPU: against the arithmetic, the link and the disk, each measured in the same run."""
