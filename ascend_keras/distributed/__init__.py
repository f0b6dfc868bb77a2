"""All about ranks: who this process is among them."""
