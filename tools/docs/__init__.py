"""Scripts that write the generated parts and the images of the pages in docs/, from the records in docs/results/."""
