#!/usr/bin/env python3
"""Trains small tokenizers of every supported kind with the `tokenizers` package and writes what it makes of many texts.

make_tokenizers.py FOLDER: NAME/tokenizer.json; NAME/texts, NAME/decoded (strings), NAME/ids (lists, encoded without the
post-processor), NAME/full (with it; the first 100), NAME/random_ids and NAME/random_text (any ids, decoded).
A file of strings: u32 count, then u32 bytes and the bytes; of lists: u32 count, then u32 length and int32s.
"""
import json, pathlib, random, struct, sys, unicodedata
from tokenizers import (AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers)

GPT4_NUMBERS = r"\p{N}{1,3}"
WORDS = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|NUMBERS| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")

SENTENCES = """The quick brown fox jumps over the lazy dog, doesn't it? I'll say THEY'RE WE'VE I'M he'd.
Der schnelle braune Fuchs springt über den faulen Hund. Straße, Äpfel, Öl und Übermut.
Le cœur déçu mais l'âme plutôt naïve, Louÿs rêva de crapaüter en canoë au delà des îles.
Zażółć gęślą jaźń. Příliš žluťoučký kůň úpěl ďábelské ódy. Pijamalı hasta yağız şoföre çabucak güvendi.
Съешь же ещё этих мягких французских булок, да выпей чаю. Жебракують філософи при ґанку церкви.
Ξεσκεπάζω την ψυχοφθόρα βδελυγμία. Ταχίστη αλώπηξ βαφής ψημένη γη, δρασκελίζει υπέρ νωθρού κυνός.
אני יכול לאכול זכוכית וזה לא מזיק לי. שָׁלוֹם עוֹלָם
أنا قادر على أكل الزجاج و هذا لا يؤلمني. صِف خَلقَ خَودٍ كَمِثلِ الشَمسِ إِذ بَزَغَت ١٢٣٤
मैं काँच खा सकता हूँ, मुझे उस से कोई पीडा नहीं होती। ১২৩ আমি কাচ খেতে পারি ਮੈਂ ਗਲਾਸ હું કાચ நான் கண்ணாடி నేను గాజు ನಾನು ഞാൻ
ฉันกินกระจกได้ แต่มันไม่ทำให้ฉันเจ็บ ຂ້ອຍ ကျွန်တော် ខ្ញុំ ཤེལ་སྒོ་ཟ་ནས་ང་ན་གི་མ་རེད།
我能吞下玻璃而不伤身体。私はガラスを食べられます。それは私を傷つけません。ガギグゲゴ ｶﾞｷﾞ パ
나는 유리를 먹을 수 있어요. 그래도 아프지 않아요 한글 한글
მინას ვჭამ და არა მტკივა. Կրնամ ապակի ուտել ᏣᎳᎩ ᚠᚢᚦ ⴰⵣⵓⵍ እኔ መስታወት መብላት
😀 👍🏽 👨‍👩‍👧‍👦 🏳️‍🌈 🇩🇪🇫🇷 ☕️ ♥ 1️⃣ ✈️ 🧑🏿‍🚀
x = [i**2 for i in range(10)]; if (a != b && c->d[3] >= 0x1F) { return "str\\n"; }  // http://example.org/?q=1&r=%20#top
3.14159 1,000,000 2024-02-29 12:34:56 +49 (0)30 123456 ½ ¾ ² ³ ⅷ Ⅻ ① ٣٤ ๕๖ 〇一二""".split("\n")

HOSTILE = ["", " ", "  ", "   ", "\n", "\n\n", "\r\n", "\r", "\t", "\t\t", " \n ", "\u00a0", "\u3000", "\u2028", "\u0085", "\u200b", "\u200d", "\u200c", "\ufeff",
           "\0", "\x01", "\x1b[0m", "\x7f", "\x80", "\x9f", "\ufffd", "\ufffd\ufffd", "e\u0301", "\u0301", "a\u0323\u0307", "a\u0307\u0323", "\u1e69", "s\u0323\u0307", "\u212b", "\u2126",
           "\uac00\u11a8", "\u1100\u1161\u11a8", "\u0958", "\u2adc", "\u0344", "\U0001d15e", "\u09c7\u09be", "q\u0307\u0323\u0301" * 9, "'", "'s", "'S", "'LL", " 'd", "’s", "_", "__", "-", "...", "!?",
           "▁", "▁▁", " ▁ ", "a▁b", "<0x41>", "<0x", "<unk>", "Ġ", "Ċ", "ĠĠ", "<s>", "</s>", "<|", "|>", "\\", "\"", "{}", "\U0010ffff", "\ue000", "ﬁ", "Ǆ", "İ", "ß", "ſ", "K", "x" * 300,
           "ab" * 2000, " " * 700, "\n" * 300, "a" * 5000, "0" * 400, "é" * 500, "語" * 700, "🙂" * 200, "\u0301" * 300, "-" * 300, "a " * 400, "Ab1-" * 300, "\t \n" * 100]


def real_lines():
    root = pathlib.Path(__file__).resolve().parents[2]
    files = [root / "README.md", *sorted((root / "data").glob("*.cpp")), *sorted((root / ".deps/corpus").glob("**/*.txt"))[:3]]
    return [line for f in files for line in f.read_text(errors="replace").split("\n")[:1500]]


def make_texts(added, count=10_000):
    draw, real = random.Random(1), real_lines()
    parts = SENTENCES + HOSTILE + added * (1 + 40 // max(1, len(added)))
    scripts = [chr(c) for c in range(0x10FFFF) if unicodedata.category(chr(c)) not in ("Cn", "Cs", "Co")]
    texts = HOSTILE + SENTENCES + added
    while len(texts) < count:
        kind = draw.random()
        if kind < 0.35:
            i = draw.randrange(len(real))
            text = "\n".join(real[i:i + draw.randint(1, 3)])
        elif kind < 0.7:
            text = draw.choice(["", " ", "\n", ""]).join(draw.choice(parts)[:draw.choice([9, 40, 5000])] for _ in range(draw.randint(1, 5)))
        elif kind < 0.85:  # tokens inside of words, words cut short
            word = draw.choice(SENTENCES)
            i = draw.randrange(len(word))
            text = word[:i] + draw.choice(parts)[:30] + word[i:]
        else:
            text = "".join(draw.choice(scripts) if draw.random() < 0.7 else draw.choice(" \n\u0301\u0323'a1.") for _ in range(draw.randint(1, 30)))
        texts.append(text)
    return texts


def all_characters(marks):
    """Every code point that Unicode 16 has in use: between letters, or between marks that move."""
    codes = [c for c in [*range(0x33480), *range(0xE0000, 0xE0200)] if not 0xD800 <= c < 0xE000]
    form = "e\u0301{}\u0323" if marks else "a{}a"
    return ["".join(form.format(chr(c)) for c in codes[i:i + 89]) for i in range(0, len(codes), 89)]


def special(*names):
    return [AddedToken(n, special=True, normalized=False) for n in names]


def train(tokenizer, size, alphabet=(), specials=(), limit=None):
    trainer = trainers.BpeTrainer(vocab_size=size, initial_alphabet=list(alphabet), special_tokens=list(specials), show_progress=False,
                                  **({"limit_alphabet": limit} if limit else {}))
    lines = (SENTENCES * 6 + real_lines())[:6000]
    tokenizer.train_from_iterator(lines + ["    " * n + "x" for n in range(60)], trainer)
    return tokenizer


def byte_level(size, pre_tokenizer, normalizer=None, specials=(), post=None, ignore_merges=False):
    t = Tokenizer(models.BPE(ignore_merges=ignore_merges))
    t.pre_tokenizer = pre_tokenizer
    if normalizer:
        t.normalizer = normalizer
    t.decoder = decoders.ByteLevel()
    t.post_processor = post or processors.ByteLevel(trim_offsets=False)
    return train(t, size, pre_tokenizers.ByteLevel.alphabet(), specials)


def gpt_neox():
    t = byte_level(1500, pre_tokenizers.ByteLevel(add_prefix_space=False), normalizers.NFC(), special("<|endoftext|>", "<|padding|>"))
    t.add_tokens([AddedToken(" " * n, normalized=True) for n in range(24, 1, -1)])
    return t


def gpt2_prefix():
    t = byte_level(900, pre_tokenizers.ByteLevel(add_prefix_space=True), None, special("<|endoftext|>"))
    t.add_tokens([AddedToken("fox", single_word=True), AddedToken("<mask>", lstrip=True, special=True, normalized=False), AddedToken("<r>", rstrip=True),
                  AddedToken("<lr>", lstrip=True, rstrip=True), AddedToken("é"), AddedToken("  "), AddedToken("<m"), AddedToken("語語", single_word=True)])
    return t


def llama3():
    pre = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(WORDS.replace("NUMBERS", GPT4_NUMBERS)), "isolated"),
                                   pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    t = byte_level(1300, pre, None, (), None, True)
    t.add_special_tokens(special("<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>"))
    bos = t.token_to_id("<|begin_of_text|>")
    t.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=True), processors.TemplateProcessing(
        single="<|begin_of_text|> $A", pair="<|begin_of_text|> $A <|begin_of_text|> $B", special_tokens=[("<|begin_of_text|>", bos)])])
    return t


def qwen2():
    pre = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(WORDS.replace("NUMBERS", r"\p{N}")), "isolated"),
                                   pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    t = byte_level(1400, pre, normalizers.NFC())
    t.add_special_tokens(special("<|endoftext|>", "<|im_start|>", "<|im_end|>"))
    t.add_tokens([AddedToken("<tool_call>", special=False, normalized=False)])
    return t


def falcon():
    pre = pre_tokenizers.Sequence([pre_tokenizers.Punctuation("contiguous"), pre_tokenizers.ByteLevel(add_prefix_space=False), pre_tokenizers.Digits(False),
                                   pre_tokenizers.Split(Regex("[0-9][0-9][0-9]"), "isolated")])
    return byte_level(1200, pre, None, special(">>TITLE<<", ">>ABSTRACT<<", "<|endoftext|>"))


def sentencepiece(metaspace, byte_fallback=True, decoder=None, fuse=True):
    """As converted from a SentencePiece model: reserved, bytes, then what was learned."""
    seed = Tokenizer(models.BPE())
    seed.pre_tokenizer = pre_tokenizers.Metaspace()
    learned = json.loads(train(seed, 1000, limit=250).to_str())["model"]
    names = ["<unk>", "<s>", "</s>"] + ([f"<0x{b:02X}>" for b in range(256)] if byte_fallback else []) + list(learned["vocab"])
    vocabulary = {n: i for i, n in enumerate(dict.fromkeys(names))}
    t = Tokenizer(models.BPE(vocabulary, [tuple(m) for m in learned["merges"]], unk_token="<unk>", fuse_unk=fuse, byte_fallback=byte_fallback))
    if metaspace:
        t.pre_tokenizer = metaspace
    else:
        t.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    t.decoder = decoder or decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    t.add_special_tokens(special("<unk>", "<s>", "</s>"))
    t.add_tokens([AddedToken("<word>", normalized=True), AddedToken("dog", single_word=True, normalized=False)])
    t.post_processor = processors.TemplateProcessing(single="<s> $A </s>", pair="<s> $A $B", special_tokens=[("<s>", 1), ("</s>", 2)])
    return t


def splits(behavior, pattern, invert=False):
    pre = pre_tokenizers.Sequence([pre_tokenizers.Split(pattern, behavior, invert), pre_tokenizers.Digits(True), pre_tokenizers.Metaspace(prepend_scheme="first")])
    return sentencepiece(pre, byte_fallback=False, decoder=decoders.Metaspace(), fuse=behavior != "removed")


KINDS = {
    "gpt_neox": gpt_neox, "gpt2_prefix": gpt2_prefix, "llama3": llama3, "qwen2": qwen2, "falcon": falcon,
    "llama2": lambda: sentencepiece(None),
    "llama2_v5": lambda: sentencepiece(pre_tokenizers.Metaspace(prepend_scheme="always", split=False)),
    "mistral": lambda: sentencepiece(pre_tokenizers.Metaspace(prepend_scheme="first", split=False)),
    "metaspace": lambda: sentencepiece(pre_tokenizers.Metaspace(), decoder=decoders.Metaspace()),
    "removed": lambda: splits("removed", " "), "previous": lambda: splits("merged_with_previous", Regex(r"\s+")),
    "next": lambda: splits("merged_with_next", "e"), "contiguous": lambda: splits("contiguous", Regex(r"\s|\p{P}"), True),
}


def write(path, rows):
    with open(path, "wb") as out:
        out.write(struct.pack("<I", len(rows)))
        for row in rows:
            data = row.encode() if isinstance(row, str) else struct.pack(f"<{len(row)}i", *row)
            out.write(struct.pack("<I", len(row) if not isinstance(row, str) else len(data)) + data)


def write_kind(name, folder):
    t = KINDS[name]()
    text = t.to_str()
    if name in ("falcon", "llama2"):  # as older files spell merges
        document = json.loads(text)
        document["model"]["merges"] = [" ".join(pair) for pair in document["model"]["merges"]]
        text = json.dumps(document, ensure_ascii=False)
        t = Tokenizer.from_str(text)
    folder.mkdir(parents=True)
    (folder / "tokenizer.json").write_text(text)
    added = [token.content for token in t.get_added_tokens_decoder().values()]
    texts = make_texts(added, 10_000 if name not in ("removed", "previous", "next", "contiguous") else 3_000)
    if name in ("gpt_neox", "falcon"):
        texts += all_characters(name == "gpt_neox")
    encoded = [e.ids for e in t.encode_batch(texts, add_special_tokens=False)]
    draw, size = random.Random(2), t.get_vocab_size()
    wild = [[draw.randrange(size) for _ in range(draw.randint(0, 12))] for _ in range(1000)]
    for file, rows in {"texts": texts, "ids": encoded, "decoded": t.decode_batch(encoded), "full": [e.ids for e in t.encode_batch(texts[:100])],
                       "random_ids": wild, "random_text": t.decode_batch(wild)}.items():
        write(folder / file, rows)


if __name__ == "__main__":
    for kind in sys.argv[2:] or KINDS:
        write_kind(kind, pathlib.Path(sys.argv[1]) / kind)
