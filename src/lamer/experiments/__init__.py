"""Methods compared on one footing, composed from the stages."""
