"""What model calls sent and got, kept for a while for people who look for a fault. No part of the truth: deleting it
loses nothing. Imports the ports, the core, the wire and the store."""
