"""An editable presentation of a trained image classifier (Practical Work, 7)."""
