"""The encoder's choices, which no reader needs: steps, transforms and whole numbers for the fewest bytes."""
