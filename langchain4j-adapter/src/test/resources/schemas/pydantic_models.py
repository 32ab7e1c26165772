"""Prints what pydantic.json holds: the JSON schemas that Pydantic 2.14 makes of ordinary models.

    python pydantic_models.py > pydantic.json
"""

from __future__ import annotations

import datetime
import decimal
import enum
import ipaddress
import json
import pathlib
import uuid
from typing import Annotated, Literal, Optional, Union

from pydantic import UUID4, AnyUrl, BaseModel, ConfigDict, Field, RootModel


class Colour(enum.Enum):
    RED = "red"
    GREEN = "grün"


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 3


class Address(BaseModel):
    """Where somebody lives."""

    street: str
    zip: str = Field(pattern=r"^\d{5}$")
    country: Literal["DE", "FR"] = "DE"


class Person(BaseModel):
    name: str = Field(min_length=2, max_length=20, description="of the family")
    age: int = Field(ge=0, le=150)
    address: Address
    other_addresses: list[Address] = []
    colour: Optional[Colour] = None


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")
    level: Level
    yes: bool


class Times(BaseModel):
    day: datetime.date
    at: datetime.datetime
    hour: datetime.time
    took: datetime.timedelta


class Identifiers(BaseModel):
    id: uuid.UUID
    random: UUID4
    url: AnyUrl
    host: ipaddress.IPv4Address
    file: pathlib.Path


class Tree(BaseModel):
    value: int
    children: list[Tree] = Field(default=[], max_length=3)


class Cat(BaseModel):
    kind: Literal["cat"]
    lives: int = Field(gt=0, lt=10)


class Dog(BaseModel):
    kind: Literal["dog"]
    tricks: set[Colour]


class Parrot(BaseModel):
    kind: Literal["parrot"]
    words: Annotated[list[str], Field(min_length=1, max_length=4)]


class Pet(BaseModel):
    pet: Union[Cat, Parrot] = Field(discriminator="kind")


class Owner(BaseModel):
    pets: list[Union[Cat, Dog]]


class Numbers(BaseModel):
    ratio: float
    even: int = Field(multiple_of=2, ge=0, le=20)
    either: Union[int, str, None]


class Probability(BaseModel):
    value: float = Field(ge=0, le=1)


class Money(BaseModel):
    amount: decimal.Decimal


class Pair(BaseModel):
    point: tuple[int, int]
    path: tuple[str, ...]


class Maps(BaseModel):
    counts: dict[str, int]
    anything: dict[str, object]


class ByColour(BaseModel):
    counts: dict[Literal["a", "b"], int]


class ByPattern(BaseModel):
    counts: dict[Annotated[str, Field(pattern="^a+$")], int]


class People(RootModel[list[Person]]):
    pass


MODELS = [
    Address, Person, Strict, Times, Identifiers, Tree, Pet, Owner, Numbers, Probability, Money, Pair, Maps, ByColour, ByPattern, People,
]

print(json.dumps({model.__name__: model.model_json_schema() for model in MODELS}, indent=1, ensure_ascii=False))
