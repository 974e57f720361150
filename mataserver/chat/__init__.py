"""OpenAI's chat completions, apart from how they travel: questions in, answers out.

The form is that of the API reference of OpenAI, "Chat Completions". What a model of the task
``vlm`` cannot do is refused by name, and never passed over in silence.
"""
