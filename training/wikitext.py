#!/usr/bin/env python3
"""Makes plain text of WikiText-2's tokenised files: python3 training/wikitext.py wikitext-2.test.tokens wikitext-2.test.txt

 @-@ , @,@ and @.@ become the sign itself, punctuation is joined to its word, and <unk>, which stands for a rare word, is
left out. The perplexity of the result is not that of the tokenised file, which other papers give.
"""

import re
import sys
from pathlib import Path


def plain(text):
    text = re.sub(r" @([-,.])@ ", r"\1", text)
    text = re.sub(r" ?<unk>", "", text)
    text = re.sub(r" ([.,;:!?)\]%]|'s\b|n't\b|'\w+\b)", r"\1", text)
    text = re.sub(r"([(\[$£]) ", r"\1", text)
    text = re.sub(r'" ([^"\n]*?) ?"', r'"\1"', text)
    return "\n".join(line.strip() for line in text.split("\n") if line.strip()) + "\n"


if __name__ == "__main__":
    if len(sys.argv) != 3:
        raise SystemExit(__doc__)
    Path(sys.argv[2]).write_text(plain(Path(sys.argv[1]).read_text(encoding="utf-8")), encoding="utf-8")
