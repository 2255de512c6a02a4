"""Counts the words of a text: `{"text": "…", "top": 10}` → figures about it."""

import re
from collections import Counter

# Letters and digits of every script, with apostrophes and hyphens inside.
WORD = re.compile(r"[^\W_]+(?:['’-][^\W_]+)*")
# A minute's reading for an adult, in words.
WORDS_PER_MINUTE = 230


def handler(event, context):
    if not isinstance(event, dict) or not isinstance(event.get("text"), str):
        raise ValueError('the event must be an object with a "text", for example {"text": "to be or not to be"}')
    text, top = event["text"], event.get("top", 10)
    if not isinstance(top, int) or isinstance(top, bool) or not 0 <= top <= 1000:
        raise ValueError('"top" must be a whole number from 0 to 1000')
    words = [word.lower() for word in WORD.findall(text)]
    counts = Counter(words)
    print("counted %d words for request %s" % (len(words), context.aws_request_id))
    # Equal counts in alphabetical order, so that equal texts give equal answers.
    ranking = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return {
        "characters": len(text),
        "lines": len(text.splitlines()),
        "words": len(words),
        "different_words": len(counts),
        "longest_word": max(counts, key=lambda word: (len(word), word), default=None),
        "reading_minutes": round(len(words) / WORDS_PER_MINUTE, 1),
        "most_frequent": [{"word": word, "count": count} for word, count in ranking[:top]],
    }
