"""Write the schemas."""

from compression_gate.schemas import FOLDER, schemas, text_of

for name, schema in schemas().items():
    (FOLDER / name).write_text(text_of(schema), encoding="utf-8")
