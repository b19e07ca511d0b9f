"""Where paths lead, whose rights they are opened with, and what the kernel would say of a call on them."""
