"""Small files of trained networks, without training them on."""
