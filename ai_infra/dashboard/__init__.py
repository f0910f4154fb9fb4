"""Views: what people see of the session. They draw values handed to them, and never write or decide."""
