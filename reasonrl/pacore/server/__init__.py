"""The OpenAI-compatible server in front of any model: `reasonrl pacore serve`. It needs the extra `serve`."""
