"""Label files, images, the pixel cache and the data set that a training reads."""
