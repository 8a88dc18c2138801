"""The words of the stories: one lexicon per kind of thing, with the forms and classes of each word.

Order does not matter (slots rank the entries by fixed pseudo-random permutations); groups do: the
story grammar says which groups fit together.
"""

from collections.abc import Callable
from typing import Any

from jaxlm.data.stories.tables import Lexicon

Form = Callable[..., str | int]  # of a word and its groups


def lexicon(groups: dict[str, str], column: str = "group", **forms: Form) -> Lexicon:
    """Comma-separated words by group, with a column of each word's groups.

    `forms` maps further columns to functions of (word, groups); "plain" replaces the word itself.
    """
    of_word: dict[str, list[str]] = {}
    for group, words in groups.items():
        for word in words.split(","):
            of_word.setdefault(" ".join(word.split()), []).extend(group.split())
    plain = forms.pop("plain", lambda word, groups: word)
    columns: dict[str, list[Any]] = {column: [" ".join(names) for names in of_word.values()]}
    for form, function in {"": plain, **forms}.items():
        columns[form] = [function(word, names) for word, names in of_word.items()]
    return Lexicon(columns)


def indefinite(word: str, groups: object = None) -> str:
    vowel = word[0] in "aeiou" and not word.startswith(("uni", "use", "uku"))
    return ("an " if vowel or word.startswith(("hour", "honest")) else "a ") + word


def capital(word: str, groups: object = None) -> str:
    return word[0].upper() + word[1:]


_PRONOUNS = {
    "he": ("he", "she"),
    "He": ("He", "She"),
    "him": ("him", "her"),
    "his": ("his", "her"),
    "own": ("his", "hers"),
    "His": ("His", "Her"),
}


def named(groups: dict[str, str]) -> Lexicon:
    """Names with their pronouns; the groups say "he" or "she"."""
    pronouns = {
        form: (lambda word, groups, both=both: both["she" in groups])
        for form, both in _PRONOUNS.items()
    }
    return lexicon(groups, "group", **pronouns)


KINDS = lexicon(
    {
        "girl": "girl, princess, farm girl, school girl, shepherd girl, flower girl",
        "boy": "boy, prince, farm boy, school boy, shepherd boy, kitchen boy",
        "pet": """rabbit, fox, bear, mouse, cat, dog, pig, duck, squirrel, hedgehog, badger,
        mole, otter, beaver, raccoon, chipmunk, hamster, kitten, puppy, lamb, goat, pony,
        donkey, calf, deer, wolf, panda, koala, monkey, lion, tiger, elephant, giraffe, zebra,
        camel, kangaroo, penguin, owl, sparrow, parrot, robin, hen, goose, swan, turtle, frog,
        lizard, toad, skunk, weasel, ferret, possum, moose, yak, llama, ostrich, peacock, crow,
        dragon, dwarf, elf, giant, fairy, robot, goblin, unicorn, snowman, ghost, wizard, troll""",
    },
    a=indefinite,
)

NAMES = named(
    {
        "girl she": """Lily, Anna, Emma, Mia, Zoe, Lucy, Sara, Ella, Nora, Clara, Amy, Sophie,
        Kate, Molly, Alice, Rosa, Jane, Maya, Nina, Tina, Lena, Eva, Ada, Ruby, Ivy, Hazel,
        Daisy, Poppy, Grace, Hannah, Julia, Leah, Maria, Naomi, Olive, Paula, Quinn, Rachel,
        Stella, Tessa, Uma, Vera, Wendy, Xenia, Yara, Zara, Bella, Carla, Dora, Edith, Fiona,
        Gemma, Helen, Irene, Jenny, Kira, Laura, Mary, Nelly, Olga, Penny, Rita, Sally, Thea,
        Ursula, Violet, Willa, Amber, Bonnie, Celia, Diana, Elsa, Flora, Greta, Heidi, Ingrid,
        Joan, Katie, Lola, Mabel, Nadia, Opal, Petra, Rhea, Susie, Trudy, Vicky, Winnie, Yvonne,
        Agnes, Beth, Chloe, Della, Esther, Faye, Gwen, Holly, Iris, June, Karen, Linda, Myra,
        Nancy, Odette, Pearl, Rosie, Selma""",
        "boy he": """Tom, Ben, Max, Sam, Tim, Jack, Leo, Jim, Bob, Joe, Dan, Luke, Mark, Nick,
        Paul, Peter, Ryan, Adam, Alex, Andy, Billy, Carl, David, Eric, Fred, George, Harry, Ian,
        Jacob, Kevin, Liam, Mike, Noah, Oscar, Pat, Ray, Simon, Ted, Victor, Walter, Zack,
        Aaron, Brian, Colin, Dennis, Edgar, Felix, Gary, Henry, Isaac, James, Kyle, Lewis,
        Martin, Neil, Owen, Philip, Robert, Scott, Tony, Ulric, Vincent, Wayne, Xavier, Yusuf,
        Albert, Boris, Cody, Derek, Ethan, Finn, Glen, Hugo, Ivan, Jonas, Karl, Louis, Miles,
        Nathan, Oliver, Pablo, Rupert, Steven, Toby, Umberto, Vernon, Wesley, Abel, Bruno,
        Caleb, Dylan, Ernest, Frank, Gus, Harold, Igor, Jerry, Ken, Lars, Matt, Ned, Otto,
        Percy, Ralph, Sid, Trevor""",
        "pet she": """Mimi, Coco, Luna, Bunny, Honey, Snowy, Cherry, Peaches, Pinky, Rosebud,
        Dotty, Fluffy, Goldie, Kiki, Lulu, Misty, Nutmeg, Petal, Pixie, Sugar, Tilly, Velvet,
        Blossom, Candy, Dolly, Fern, Ginger, Jasmine, Lacey, Maple, Muffin, Pebbles, Queenie,
        Sandy, Silky, Star, Twinkle, Willow, Berry, Biscuit, Clover, Dewdrop, Feather, Jewel,
        Minty, Olivia, Patches, Ribbon, Sunny, Tulip, Bluebell, Cinder, Duchess, Echo, Flossie,
        Heather, Juniper""",
        "pet he": """Pip, Benny, Rusty, Scruffy, Buddy, Chip, Dash, Dusty, Fuzzy, Gizmo, Hopper,
        Jumbo, Lucky, Mango, Nibbles, Oreo, Pepper, Rocky, Rufus, Shadow, Sparky, Spike, Teddy,
        Thumper, Waldo, Wiggles, Ziggy, Bandit, Boomer, Bramble, Button, Chester, Copper,
        Digger, Fidget, Flash, Gruff, Hamish, Jasper, Knobby, Monty, Mudge, Noodle, Peanut,
        Pickle, Pogo, Quill, Rumble, Smokey, Snuffy, Stripe, Tumble, Whiskers, Wobble, Yodel,
        Zippy""",
    }
)

PALS = named(
    {
        "he": """Mister Brown, Mister Green, Mister Finch, Mister Reed, Mister Gray,
        Mister Stone, Mister Hill, Mister Marsh, Old Grumble, Old Barnaby, Uncle Moss,
        Uncle Bert, Captain Beak, Captain Tuft, Professor Hoot, Doctor Paws, Bobo, Dodo, Momo,
        Toto, Zuzu, Gogo, Kobo, Hank, Chuck, Clyde, Duncan, Earl, Floyd, Grover, Homer, Irving,
        Julius, Kermit, Lloyd, Milton, Norman, Orson, Perry, Quincy, Roger, Stanley, Thaddeus,
        Ulysses, Virgil, Wilbur, Amos, Basil, Cecil, Dexter, Elmer, Fergus, Gilbert, Horace,
        Ichabod, Jethro, Kipp, Leopold, Mortimer, Nigel, Oswald, Pascal""",
        "she": """Missus Brown, Missus Green, Missus Finch, Missus Reed, Missus Gray,
        Missus Stone, Missus Hill, Missus Marsh, Old Maggie, Old Hester, Aunt Fern, Aunt Dot,
        Madam Plume, Madam Whisk, Lady Swift, Miss Thistle, Lala, Nana, Fifi, Gigi, Didi, Tutu,
        Yoyo, Beatrice, Cora, Daphne, Eloise, Frida, Gladys, Hilda, Ida, Josephine, Kitty,
        Lottie, Matilda, Nettie, Ophelia, Prudence, Rowena, Sylvia, Tabitha, Una, Viola,
        Winifred, Zelda, Adele, Bridget, Clementine, Dinah, Ernestine, Florence, Georgia,
        Harriet, Imogen, Jemima, Lorna, Minerva, Nellie""",
    }
)

TRAITS = lexicon(
    {
        "": """brave, kind, shy, clever, curious, gentle, funny, careful, cheerful, friendly,
        busy, lazy, proud, polite, quiet, silly, stubborn, sweet, tidy, wise, honest, helpful,
        hungry, lonely, lively, merry, messy, noisy, patient, playful, sleepy, smart, strong,
        thoughtful, timid, tiny, young, bold, calm, clumsy, dreamy, eager, fearless, fussy,
        generous, graceful, grumpy, happy, humble, jolly, joyful, loyal, modest, nervous,
        nimble, poor, quick, restless, serious, small, spoiled, tall, truthful, warm-hearted,
        wild, witty"""
    },
    a=indefinite,
)

HOBBIES = lexicon(
    {
        "": """climb trees, pick flowers, sing songs, paint pictures, count the stars,
        read books, dance in the rain, jump in puddles, collect stones, chase butterflies,
        bake cookies, build towers, dig holes, fly kites, swim, run fast, tell jokes,
        play hide and seek, watch birds, plant seeds, help others, play the drum, look at maps,
        make paper boats, roll down hills, splash in the water, draw animals, whistle tunes,
        catch frogs, fix old things, eat cake, take long naps, ride bikes, play with marbles,
        listen to stories, look for treasure, write letters, make new friends, skip rope,
        watch the clouds, collect shells, swing on vines, hunt for mushrooms, make soup,
        wear funny hats, play chess, blow bubbles, slide on ice, make snowballs, gather nuts,
        carve wood, sew dolls, feed the ducks, ask questions, learn new words, solve puzzles,
        go fishing, sail toy boats, tell tall tales, stack blocks, knit scarves, play the flute,
        sweep the floor, polish spoons, juggle apples, do magic tricks, walk on walls,
        race with the wind, talk to the moon, count sheep, spin in circles, wake up early,
        stay up late, visit neighbors, trade buttons, make mud pies, weave baskets,
        catch snowflakes, follow ants, guess riddles, play tag, look after bees,
        collect feathers, draw maps, hum old tunes, smell roses, explore caves, play pirates,
        play school, pretend to fly"""
    },
)

HOMES = lexicon(
    {
        "girl boy": """in a small house, in a red house, in a house by the sea,
        in a little cottage, in a tall tower, in a quiet village, in a big city, on a farm,
        in a house on a hill, in a town near the mountains, above a bakery, next to a mill,
        on a houseboat, in a castle, in a cabin in the woods, in a yellow house,
        at the end of a long road, beside a wide river, near an old bridge, behind the school,
        in a white tent, on a small island, near the station, in a crooked house,
        in a lighthouse, over a toy shop, across from the park, near a windmill""",
        "pet": """in a cozy burrow, in a hollow tree, under an old oak, in a nest of leaves,
        in a warm barn, under a bridge, in a small cave, in a hole in the wall,
        behind a waterfall, in a mossy den, beside a pond, in a basket,
        at the edge of the forest, under a rose bush, in an old boot, on top of a hill,
        in a wooden box, in a pile of hay, deep in the woods, under the floor, in a tiny hut,
        in a meadow, near a stone wall, in a dry log, by a winding creek, in a garden shed,
        under the roots of a pine, in a teapot, on a ledge, in a mushroom house""",
    },
)

TIMES = lexicon(
    {
        "sun": """one sunny morning, one bright day, one warm afternoon, on a hot summer day,
        one fine day, one clear morning, on a lovely spring day, one golden evening,
        early one morning, on Sunday, on Monday, on Saturday, one day, one Friday morning,
        after breakfast, after lunch, on the first day of summer, on market day, on a holiday,
        just after sunrise, one lazy afternoon""",
        "rain": """one rainy day, on a gray morning, on a wet afternoon, after a big storm,
        one cloudy day, on a stormy day, after a night of rain, one damp morning,
        when the rain stopped, on a dark and wet Tuesday, between two showers""",
        "wind": """one windy day, on a windy morning, one breezy afternoon,
        on a wild autumn day, on a cool fall day, when the leaves fell, one gusty Thursday,
        when the wind blew hard""",
        "snow": """one cold morning, on a snowy day, one winter day, on a frosty morning,
        after the first snow, one icy afternoon, on the coldest day of the year,
        on a white winter morning, when the lake was frozen""",
        "dark": """one night, late one evening, one quiet evening, on a foggy morning,
        one starry night, just before sunset, before the sun came up, on a misty day,
        when the moon was full""",
    },
    column="weather",
    Cap=capital,
)

GOES = lexicon(
    {
        "": """went, walked, ran, hurried, skipped, hopped, marched, raced, wandered, strolled,
        crept, rushed, jogged, trotted, danced, tiptoed, dashed, climbed, traveled, rode,
        rolled, scampered, stomped, waddled, bounced, crawled, bounded, galloped, glided, hiked,
        limped, paraded, flitted, scurried, shuffled, slid, sneaked, sprinted, staggered,
        strutted, trudged, tumbled, twirled, zoomed, scuttled, ambled, headed, moved"""
    },
)

PLACES = lexicon(
    {
        "water": """at the pond, at the river, at the lake, at the beach, at the stream,
        at the creek, at the waterfall, at the harbor, at the sea, at the pier, at the marsh,
        at the canal, at the lagoon, at the fishing dock, at the duck pond, at the stone well,
        at the swimming hole""",
        "wood": """in the forest, in the woods, in the oak grove, in the pine forest,
        in the jungle, in the clearing, in the dark woods, in the birch grove,
        in the bamboo forest, in the thicket, at the hollow tree, at the great oak,
        in the cedar grove, in the fern valley, in the maple wood""",
        "field": """in the meadow, in the field, in the valley, in the pasture,
        in the clover field, in the wheat field, in the cornfield, in the sunflower field,
        on the green hill, on the hill, at the crossroads, on the mountain, at the windmill,
        on the cliff, in the canyon, in the desert, at the old bridge, at the rocky pass,
        on the heath, in the tall grass""",
        "farm": """at the farm, in the barn, in the stable, in the hen house, in the orchard,
        in the vegetable garden, in the pumpkin patch, in the vineyard, at the dairy,
        in the hay loft, at the apple orchard, at the mill, in the cow shed,
        in the cherry orchard, in the berry patch""",
        "town": """at the market, at the park, in the town square, at the bakery, at the school,
        at the zoo, at the station, at the toy shop, at the fountain, at the fair,
        at the circus, at the playground, at the church, at the castle, at the post office,
        at the bus stop, at the book shop, at the bank, at the museum, at the theater,
        at the candy shop, at the flower shop, at the tailor shop""",
        "inside": """in the kitchen, in the attic, in the cellar, in the library, in the garage,
        in the hall, in the tower, in the workshop, in the classroom, in the bedroom,
        in the cave, in the greenhouse, in the old mine, in the basement, in the music room,
        in the closet, in the pantry, in the living room, in the tent, in the tree house""",
    },
    column="kind",
    the=lambda word, kinds: word.split(" ", 1)[1],
    noun=lambda word, kinds: word.split(" ", 2)[2],
)

AIRS = lexicon(
    {
        "": """old, quiet, big, little, empty, busy, lovely, lonely, nearby, distant, hidden,
        famous, dark, beautiful, strange, dusty, misty, silent, noisy, sleepy, crowded,
        forgotten, haunted, pretty, sunny, cold, warm, peaceful, secret, royal, muddy, gloomy,
        bright, windy, green, new, local, magic, wild, cozy, enormous, tiny, colorful, shady,
        abandoned, ancient, cheerful, far-off"""
    }
)

SPOTS = lexicon(
    {
        "water": """under a lily pad, behind the reeds, between two wet rocks, in the mud,
        in the sand, beside a boat, under the dock, in a tide pool, near the water,
        on a flat stone, under a net, behind a bucket, inside a big shell, on a sandbank,
        under some seaweed, next to an anchor""",
        "wood": """under a log, behind a tree, in a pile of leaves, under a fern, on a branch,
        in a nest, behind a thorn bush, between the roots, under a mushroom, beside an anthill,
        on a tree stump, in a hollow trunk, under the moss, among the pine cones,
        near a spider web, up in the ivy""",
        "field": """behind a rock, in the long grass, under a bush, on a fence, beside the path,
        in a ditch, behind a stone wall, among the daisies, under a thistle, in a rabbit hole,
        on a haystack, next to a signpost, behind a scarecrow, on a rope bridge,
        among the poppies, near a beehive""",
        "farm": """under the hay, behind the plow, in a bucket, beside the trough, on a cart,
        in a basket, under a pumpkin, behind the gate, in the chicken coop, between two barrels,
        on a sack of corn, under an apple tree, next to the tractor, behind a milk can,
        in the feed bin, near the pigpen""",
        "town": """under a bench, behind a statue, in a flower pot, on the steps,
        beside a lamp post, behind a cart, under a table, near the gate, on a window sill,
        in a mailbox, behind a big sign, between two boxes, on a stone wall,
        next to the ticket booth, under an umbrella, in a hat""",
        "inside": """under a rug, behind a door, in a drawer, on a shelf, under a chair,
        behind a curtain, in an old trunk, on the floor, behind a stack of books,
        in a dusty box, under a bed, inside a jar, on top of a cupboard, next to a broom,
        in a big pot, between two crates""",
    },
    column="kind",
    Cap=capital,
)

THINGS = lexicon(
    {
        "toy": """ball, doll, kite, top, puppet, drum, teddy bear, train, truck, boat, robot,
        puzzle, yo-yo, marble, block, wagon, balloon, bear, plane, rocket, dice cup, whistle,
        toy car, toy horse, toy sword, toy castle, rag doll, pinwheel, hoop, jump rope,
        board game, music box, sled, scooter, rocking horse, boomerang, slingshot, beach ball,
        dollhouse, tin soldier""",
        "tool": """lamp, hammer, rope, ladder, shovel, bucket, broom, basket, spoon, net,
        lantern, key, clock, wheel, saw, brush, needle, fishing rod, oar, compass, telescope,
        magnet, kettle, candle, pot, pan, rake, axe, bell, box, jar, teapot, mirror, umbrella,
        watering can, wheelbarrow, bag, pencil, paintbrush, magnifying glass, hourglass, anchor,
        flashlight, sack, trowel, wrench""",
        "wear": """hat, coat, scarf, cap, ring, belt, shoe, boot, mitten, ribbon, dress, shirt,
        cape, crown, mask, necklace, bracelet, sweater, apron, sock, bonnet, vest, glove, cloak,
        bow tie, shawl, raincoat, slipper, skirt, jacket, wig""",
        "treasure": """shell, stone, coin, pearl, feather, gem, crystal, medal, map, statue,
        cup, vase, locket, bottle, egg, star, chest, arrowhead, fossil, acorn, pine cone, rose,
        leaf, seashell, snow globe, golden coin, horseshoe, bead, diamond, ruby, goblet, scroll,
        silver coin, wand""",
        "paper": """book, letter, card, picture, postcard, notebook, poster, newspaper, photo,
        diary, ticket, stamp, paper boat, paper crown, storybook, cookbook, songbook, drawing,
        recipe, sign""",
        "music": """flute, horn, guitar, violin, trumpet, piano, harp, banjo, harmonica,
        tambourine, fiddle, accordion, xylophone, ukulele, triangle, tuba, gong, bugle, cello,
        bagpipe""",
    },
    a=indefinite,
)

LOOKS = lexicon(
    {
        "any": """red, blue, green, yellow, purple, orange, pink, white, black, brown, golden,
        silver, old, new, little, small, tiny, big, beautiful, pretty, lovely, funny, strange,
        special, shiny, bright, colorful, magic, favorite, painted, plain, gray, fine, dusty,
        broken, odd, perfect, violet, crimson, turquoise, spotted, striped, amazing, ordinary,
        unusual, muddy, famous, precious""",
        "toy music": """wooden, loud, noisy, handmade, expensive, cheap, polished, well-loved,
        squeaky, smooth, antique, lucky""",
        "tool": """heavy, sharp, rusty, sturdy, useful, iron, copper, metal, brass, bent, long,
        clean, dirty, greasy, borrowed, trusty, tall, short, oily, plastic""",
        "wear": """soft, warm, woolen, silk, cotton, fuzzy, fluffy, torn, patched, knitted,
        cozy, fancy, itchy, velvet, leather, wrinkled, lacy, faded, loose, elegant, checkered""",
        "treasure": """sparkling, glittering, glowing, ancient, round, chipped, hidden, secret,
        rare, flawless, dull, cracked, delicate, mysterious, shimmering, transparent, gleaming""",
        "paper": """thick, thin, folded, crumpled, forgotten, yellowed, handwritten, sticky,
        printed, unsigned, inky, scribbled, neat, half-finished, illustrated""",
    },
    a=indefinite,
)
