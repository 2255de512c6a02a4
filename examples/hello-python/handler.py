def handler(event, context):
    name = event.get("name", "world") if isinstance(event, dict) else "world"
    print("greeting", name)
    return {"message": "Hello, %s!" % name}
