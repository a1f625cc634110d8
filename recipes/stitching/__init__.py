"""Two trained networks stitched: a row of networks between them."""
