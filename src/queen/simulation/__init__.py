"""What-if: the queen's own parts on a virtual clock, over machines and requests that a file describes."""
