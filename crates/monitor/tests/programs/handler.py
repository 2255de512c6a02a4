"""A function of the tests: gives its event back."""


def handle(event, context):
    return {"event": event, "id": context.aws_request_id}
