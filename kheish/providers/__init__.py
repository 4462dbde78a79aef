"""Code that reaches model APIs. Imports the ports, the core and the foundations; SDKs load on first use."""
