"""The local web interface: a trained model in the browser."""
