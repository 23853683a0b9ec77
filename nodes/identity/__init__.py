"""Who a node is: keys, certificates, the authority that signs them, mutual TLS."""
