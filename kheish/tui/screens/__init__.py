"""One module for each screen. A screen asks the link, changes what it shows, and pushes or leaves screens."""
