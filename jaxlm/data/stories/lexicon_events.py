"""The words for what happens in the stories: helpers, feelings, food, work, sounds and lessons."""

from jaxlm.data.stories.lexicon import capital, indefinite, lexicon
from jaxlm.data.stories.tables import Lexicon

FRIENDS = lexicon(
    {
        "water": """frog, duck, turtle, otter, swan, beaver, crab, seal, heron, newt, gull,
        pelican, toad, goose, dolphin, water rat, dragonfly, snail, crane, hippo, mermaid,
        sailor, fisherman""",
        "wood": """owl, squirrel, deer, badger, hedgehog, woodpecker, bear, fox, wolf, raccoon,
        chipmunk, moose, jay, beetle, porcupine, boar, elk, bat, woodcutter, fairy, gnome,
        hunter, elf""",
        "field": """hare, mole, butterfly, bee, grasshopper, lamb, goat, eagle, lizard, mouse,
        quail, donkey, pony, snake, hawk, cricket, shepherd, giant, marmot, wild horse,
        traveler, dragon""",
        "farm": """cow, pig, hen, horse, sheep, rooster, goat, farm dog, barn cat, donkey, calf,
        turkey, bull, gosling, chick, farmer, mule, piglet, field mouse, scarecrow, milkmaid,
        llama, ox""",
        "town": """baker, postman, cat, dog, pigeon, policeman, teacher, shopkeeper, painter,
        clown, tailor, sparrow, monkey, parrot, driver, nurse, doctor, gardener, firefighter,
        juggler, mayor, puppy, street singer""",
        "inside": """mouse, spider, cat, moth, kitten, cook, cleaner, lizard, beetle, puppy,
        librarian, hamster, parrot, ghost, inventor, old lady, old man, wizard, bat, ladybug,
        robot, dwarf""",
    },
    column="kind",
    a=indefinite,
    A=lambda word, groups: capital(indefinite(word)),
)

ELDERS = lexicon(
    {
        "": """mother, father, grandmother, grandfather, aunt, uncle, big sister, big brother,
        teacher, neighbor, mom, dad, grandma, grandpa, cousin, godmother"""
    }
)

TEMPERS = lexicon(
    {
        "": """old, young, little, big, tiny, friendly, kind, wise, grumpy, sleepy, shy, funny,
        thin, tall, short, clever, lonely, hungry, busy, gentle, noisy, quiet, proud,
        silly, lazy, brave, cheerful, curious, strange, lucky, rich, poor, bold, sly,
        fast, slow, merry, polite, gray, brown, white, black, spotted, striped, strong, weak,
        nosy, muddy, wet, dusty, pretty, bald, famous, clumsy, dreamy, jolly, moody,
        fluffy, bossy, dirty, tidy, wild, tame"""
    },
    a=indefinite,
    A=lambda word, groups: capital(indefinite(word)),
)

UPSETS = lexicon(
    {
        "": """sad, worried, upset, lonely, afraid, scared, angry, unhappy, hurt, tired, gloomy,
        nervous, ashamed, sorry, jealous, cross, miserable, disappointed, helpless, confused,
        mad, shaken, grumpy, hopeless, frightened, blue, anxious, annoyed, puzzled, guilty,
        weary, heartbroken, troubled, alarmed, embarrassed, dismayed, frustrated, terrible,
        awful"""
    }
)

JOYS = lexicon(
    {
        "": """happy, glad, proud, excited, pleased, thankful, cheerful, joyful, delighted,
        merry, calm, relieved, surprised, grateful, jolly, content, amazed, thrilled,
        hopeful, overjoyed, peaceful, blissful, satisfied, giddy, touched, tickled, elated,
        fearless, carefree"""
    }
)

SPEECH = lexicon(
    {
        "": """said, cried, whispered, shouted, answered, replied, called, sobbed, sighed,
        mumbled, muttered, explained, moaned, squeaked, yelled, wailed, stammered, murmured,
        sniffed, declared, admitted, whimpered, croaked, grumbled, groaned, blurted, wept,
        begged, snapped, gasped"""
    }
)

CHEERS = lexicon(
    {
        "": """said, cried, shouted, laughed, cheered, sang, giggled, called, smiled, grinned,
        chirped, exclaimed, chuckled, purred, whooped, beamed, hummed, crowed, boomed,
        whispered, declared, announced, piped, yelled, sighed happily, roared, gushed, answered,
        replied, agreed"""
    }
)

MANNERS = lexicon(
    {
        "": """slowly, quickly, quietly, carefully, happily, softly, gently, bravely, eagerly,
        proudly, sadly, kindly, loudly, politely, nervously, shyly, cheerfully, calmly, warmly,
        wisely, gladly, merrily, sweetly, boldly, firmly, patiently, seriously, brightly,
        thoughtfully, sleepily, anxiously, timidly, playfully, curiously, honestly, humbly,
        tenderly, excitedly, solemnly, briskly, cautiously, gracefully, hopefully, silently,
        grandly, simply, nicely, steadily"""
    },
    Cap=capital,
)

FOODS = lexicon(
    {
        "": """bread, honey, cake, soup, cheese, apples, berries, cookies, milk, pancakes,
        grapes, nuts, pie, jam, carrots, toast, tea, muffins, plums, pears, popcorn, noodles,
        rice, sandwiches, corn, cherries, porridge, peaches, lemonade, ice cream, chocolate,
        candy, strawberries, melon, buns, waffles, butter, figs, oranges, bananas, hot cocoa,
        peanuts, raisins, potatoes, stew, biscuits, crackers, pudding, doughnuts, pretzels,
        turnips, beans, peas, mushrooms, salad, walnuts, gingerbread, pumpkin pie, apple juice,
        cream, blueberries, raspberries, tarts, dumplings, pizza, spaghetti, chestnuts, almonds,
        dates, toffee, fudge, syrup, custard, sunflower seeds, acorn bread, clover tea,
        rose jam, cranberries, radishes, cabbage, lettuce"""
    }
)

TASTES = lexicon(
    {
        "": """fresh, delicious, tasty, yummy, sweet, good, cold, warm, homemade, leftover,
        special, plain, hot, soft, wonderful, fine, ripe, crunchy, sticky, creamy, salty, spicy,
        sour, lovely, stale, free, rich, famous, strange, golden, smelly, crispy, mashed, juicy,
        dry, chunky, bitter, secret"""
    }
)

DISHES = lexicon(
    {
        "bake": """apple pie, chocolate cake, birthday cake, loaf of bread, carrot cake,
        berry tart, lemon cake, honey cake, cherry pie, batch of cookies, gingerbread house,
        plum cake, banana bread, pumpkin pie, tray of muffins, cheese pie, pizza, nut cake,
        strawberry cake, corn bread""",
        "cook": """pot of soup, bowl of porridge, big stew, pot of jam, dish of noodles, omelet,
        plate of pancakes, bowl of pudding, pan of dumplings, pot of beans, fruit salad,
        mushroom soup, vegetable soup, pot of rice, stack of waffles, tomato soup, potato soup,
        bowl of custard""",
    },
    column="work",
    a=indefinite,
)

INGREDIENTS = lexicon(
    {
        "": """sugar, flour, milk, butter, salt, honey, eggs, apples, berries, nuts, cream,
        yeast, lemons, cinnamon, cheese, cherries, carrots, raisins, oats, vanilla, ginger,
        pepper, mint, garlic, onions, plums, cocoa, syrup, parsley, almonds, walnuts, bananas,
        tomatoes, mushrooms, beans"""
    }
)

PROBLEMS = lexicon(
    {
        "stuck": """stuck in the mud, stuck in a hole, caught in a net, stuck up high,
        trapped under a branch, tangled in a rope, stuck between two rocks, caught in thorns,
        locked in a cage, stuck in a sack""",
        "lost": """lost and late, far from home, all alone, looking for the way home,
        lost in the fog, looking for a lost child, unable to find the road,
        holding a map upside down""",
        "hungry": """very hungry, out of food, hungry and thirsty, looking for lunch,
        too weak to walk, without any supper, starving, searching for something to eat""",
        "cold": """wet and cold, shivering, freezing, without a warm coat,
        shaking from the cold, soaked to the skin, cold and tired, covered in frost""",
        "hurt": """hurt, limping, in pain, unable to walk, holding a sore foot, sick,
        sneezing and coughing, covered in bumps, in need of a bandage, dizzy, stung by a wasp""",
        "work": """too busy to rest, tired from work, carrying a heavy load,
        trying to fix a roof, pushing a broken cart, digging a deep well, painting a long fence,
        behind with the washing, trying to move a big rock, sweeping a huge floor,
        building a wall""",
        "sad": """crying, sad, in tears, very lonely, sitting alone, sobbing,
        without any friends, having a bad day, in a bad mood, too shy to play""",
    },
    column="need",
)

SKILLS = lexicon(
    {
        "": """swim, ride a bike, whistle, dance, read, write, skate, cook, paint, juggle, sing,
        climb, fish, knit, sew, play the piano, play the violin, tie a knot, fly a kite,
        bake bread, draw a horse, row a boat, do a cartwheel, stand on one leg, catch a ball,
        jump rope, tell time, spell long words, count to one hundred, build a fire, milk a cow,
        ski, sail, plant a tree, make a basket, walk on stilts, ride a horse,
        speak in front of people, play chess, dive, blow a big bubble, do a magic trick,
        make pottery, throw far, roller skate, carve wood, play the drum, add numbers,
        tell a good story, make a snowman, train a dog, fold paper birds, yodel, surf,
        balance a spoon, hop backward, grow tomatoes, fix a clock, use a saw, say the alphabet,
        play the trumpet"""
    }
)

_COUNT = "one two three four five six seven eight nine ten eleven twelve".split()


def _numbers(least: int, most: int) -> Lexicon:
    words = _COUNT[least - 1 : most]
    return lexicon({"": ",".join(words)}, value=lambda word, groups: _COUNT.index(word) + 1)


COUNTS, GAVES, LEFTS = _numbers(3, 12), _numbers(1, 10), _numbers(2, 11)

COUNTED = lexicon(
    {
        "": """apples, pears, plums, shells, stones, berries, flowers, nuts, cherries, eggs,
        feathers, carrots, acorns, mushrooms, tomatoes, potatoes, lemons, oranges, roses,
        peaches, pine cones, figs, pumpkins, buttons, coins, beads, daisies, onions, cookies,
        buns, chestnuts, radishes, turnips, beets, peppers, melons, tulips, clovers, leaves,
        pebbles, marbles, candles, ribbons, walnuts"""
    }
)

CHORES = lexicon(
    {
        "": """sweep:swept the floor, wash:washed the dishes, feed:fed the hens,
        water:watered the plants, clean:cleaned the windows, stack:stacked the wood,
        pick:picked the beans, paint:painted the fence, rake:raked the leaves,
        fold:folded the shirts, milk:milked the goat, carry:carried the water,
        mend:mended the net, dust:dusted the shelves, polish:polished the shoes,
        sort:sorted the buttons, dig:dug the garden, bake:baked the bread, walk:walked the dog,
        shovel:shoveled the snow, weed:weeded the garden, scrub:scrubbed the pots,
        set:set the table, make:made the beds, brush:brushed the pony, gather:gathered the eggs,
        fix:fixed the gate, empty:emptied the bins, peel:peeled the potatoes,
        hang:hung up the washing, light:lit the lamps, chop:chopped the carrots,
        oil:oiled the hinges, wind:wound the clocks, sharpen:sharpened the pencils,
        roll:rolled the dough, tie:tied up the roses, shear:sheared the sheep,
        wax:waxed the floor, beat:beat the rugs"""
    },
    plain=lambda word, groups: f"{word.split(':')[0]} {word.split(' ', 1)[1]}",
    past=lambda word, groups: word.split(":")[1],
)

SOUNDS = lexicon(
    {
        "": """squeak, bump, tap, scratch, howl, whisper, crash, thump, rustle, hiss, rattle,
        buzz, creak, bang, knock, growl, cry, moan, giggle, splash, click, clang, hoot, snore,
        sneeze, pop, rumble, chirp, whistle, thud, crunch, squeal, jingle, flutter, drip, hum,
        croak, snap, sigh, wail"""
    },
    a=indefinite,
)

SEEDS = lexicon(
    {
        "": """sunflower, pumpkin, bean, apple, rose, carrot, corn, melon, tulip, oak, cherry,
        pear, daisy, tomato, pea, lemon, peach, poppy, squash, lavender, cactus, grape, plum,
        maple, lily, pepper, cucumber, radish, violet, strawberry, turnip, mint, walnut, fig,
        orange, ivy, palm, lettuce"""
    },
    a=indefinite,
)

RIDES = lexicon(
    {
        "": """bus, train, boat, wagon, cart, canoe, red car, old truck, hot air balloon, sled,
        raft, carriage, little ship, bicycle, tractor, taxi, plane, rowboat, sleigh, van, ferry,
        tram, jeep, steamboat, golden coach, flying carpet, rocket, submarine, camper, scooter"""
    },
    a=indefinite,
)

WEATHERS = lexicon(
    {
        "sun": """the sun grew too hot, a rainbow came out, a warm breeze blew,
        the sky turned pink, the air grew very still, a cloud covered the sun,
        thunder rolled far away""",
        "rain": """it began to rain, a big storm came, lightning flashed, thunder boomed,
        it poured, the rain turned to hail, the river rose, water ran everywhere,
        a cold mist came down""",
        "wind": """the wind began to howl, a strong wind blew, leaves flew everywhere,
        a branch broke off, dust filled the air, the wind took every hat, the trees bent low""",
        "snow": """it began to snow, a blizzard came, the road froze, the snow grew deep,
        icicles fell, the path turned to ice, a cold wind blew""",
        "dark": """it grew dark, the fog came in, the moon went away, an owl called out,
        the stars went out, the lantern went out, strange shadows moved, a wolf howled""",
    },
    column="weather",
)

CELEBRATIONS = lexicon(
    {
        "": """danced, jumped for joy, sang a song, laughed out loud, clapped, smiled all day,
        cheered, did a little dance, hugged everyone, skipped all the way home, spun around,
        cried happy tears, could not stop smiling, bowed, told everyone, threw a party,
        whistled a tune, waved at everyone, rolled in the grass, did a cartwheel, hugged a tree,
        gave a big cheer, blew a kiss, hopped up and down, grinned from ear to ear,
        kissed the ground, wrote a poem about it, hummed all evening, jumped over a puddle,
        made a wish, tossed a hat in the air, ran in circles, beat on a drum"""
    }
)

LESSONS = lexicon(
    {
        "": """kind, brave, honest, patient, helpful, polite, careful, fair, thankful, gentle,
        generous, calm, friendly, truthful, humble, tidy, hopeful, curious, loyal, wise, quiet,
        cheerful, forgiving, bold"""
    }
)

GAMES = lexicon(
    {
        "": """tag, hide and seek, chess, checkers, pirates, leapfrog, hopscotch, catch,
        marbles, cards, dominoes, charades, knights and dragons, follow the leader,
        musical chairs, tug of war, school, ring toss, jacks, horseshoes, blind tag, store,
        house, soccer, kickball, cops and robbers"""
    }
)

DAYS = lexicon(
    {
        "": """two, three, four, five, six, seven, eight, nine, ten, twelve, fourteen, twenty,
        thirty, forty, fifty, one hundred"""
    }
)
