"""The handbook as a program: its claims with what is measured of them, its exercises with what proves them."""
