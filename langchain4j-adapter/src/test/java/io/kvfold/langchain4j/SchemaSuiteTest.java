package io.kvfold.langchain4j;

import static org.assertj.core.api.Assertions.assertThat;

import com.fasterxml.jackson.annotation.JsonProperty;
import com.fasterxml.jackson.annotation.JsonPropertyDescription;
import com.fasterxml.jackson.annotation.JsonSubTypes;
import com.fasterxml.jackson.annotation.JsonTypeInfo;
import com.fasterxml.jackson.core.JsonProcessingException;
import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.node.ObjectNode;
import com.fasterxml.jackson.module.jsonSchema.JsonSchemaGenerator;
import com.github.victools.jsonschema.generator.OptionPreset;
import com.github.victools.jsonschema.generator.SchemaGenerator;
import com.github.victools.jsonschema.generator.SchemaGeneratorConfigBuilder;
import com.github.victools.jsonschema.generator.SchemaVersion;
import com.github.victools.jsonschema.module.jackson.JacksonModule;
import com.github.victools.jsonschema.module.jackson.JacksonOption;
import com.networknt.schema.JsonMetaSchema;
import com.networknt.schema.JsonSchema;
import com.networknt.schema.JsonSchemaFactory;
import com.networknt.schema.SchemaValidatorsConfig;
import com.networknt.schema.ValidationMessage;
import com.networknt.schema.format.PatternFormat;
import com.networknt.schema.regex.JDKRegularExpressionFactory;
import dev.langchain4j.internal.JsonSchemaElementJsonUtils;
import dev.langchain4j.service.output.JsonSchemas;
import io.kvfold.Engine;
import io.kvfold.KvfoldException;
import java.io.IOException;
import java.io.InputStream;
import java.math.BigDecimal;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.LocalDate;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Objects;
import java.util.Set;
import java.util.TreeSet;
import java.util.UUID;
import java.util.stream.Stream;
import org.junit.jupiter.api.AfterAll;
import org.junit.jupiter.api.BeforeAll;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.TestInstance;

/**
 * What a model writes for a schema is valid by that schema, in the eyes of a validator, or the schema is refused by keyword and place.
 * A model of 260,000 weights writes at temperature 1, so nothing but the grammar keeps it to a schema.
 */
@Tag("schema-suite")
@TestInstance(TestInstance.Lifecycle.PER_CLASS)
class SchemaSuiteTest {

    private static final int SEEDS = 20;
    private static final ObjectMapper JSON = new ObjectMapper();

    /** With the name that ECMAScript has for a category and Java does not know. */
    private static final SchemaValidatorsConfig FORMATS_TOO = SchemaValidatorsConfig.builder()
            .formatAssertionsEnabled(true)
            .regularExpressionFactory(pattern -> JDKRegularExpressionFactory.getInstance()
                    .getRegularExpression(pattern.replace("\\p{Letter}", "\\p{L}")))
            .build();

    /** What came of the schemas of one source. */
    private record Outcome(Set<String> refused, List<String> wrong, int schemas, int written, int cutOff) {

        @Override
        public String toString() {
            return "%d schemas, %d refused; %d values, %d of them not valid; %d more cut off by the limit of tokens"
                    .formatted(schemas, refused.size(), written, wrong.size(), cutOff);
        }
    }

    @SuppressWarnings("NullAway.Init")
    private Engine engine;

    @BeforeAll
    void open() {
        engine = StoriesModel.engine().slots(1).contextSize(1024).open();
    }

    @AfterAll
    void close() {
        if (engine != null) {
            engine.close();
        }
    }

    @Test
    void keepsToTheOfficialSuite() throws IOException {
        Map<String, JsonNode> schemas = new LinkedHashMap<>();
        Path suite = Path.of(System.getProperty("kvfold.schema-suite", ""));
        try (Stream<Path> files = Files.walk(suite)) {
            for (Path file :
                    files.filter(f -> f.toString().endsWith(".json")).sorted().toList()) {
                for (JsonNode group : JSON.readTree(file.toFile())) {
                    String name = suite.relativize(file) + ", "
                            + group.path("description").asText();
                    schemas.put(name, group.path("schema"));
                }
            }
        }
        Outcome outcome = write("the official suite", schemas);
        assertThat(outcome.schemas()).isGreaterThan(400);
        assertThat(outcome.refused()).hasSizeLessThan(outcome.schemas() / 2);
    }

    @Test
    void keepsToSchemasOfPydantic() throws IOException {
        Map<String, JsonNode> schemas = new LinkedHashMap<>();
        try (InputStream in = Objects.requireNonNull(getClass().getResourceAsStream("/schemas/pydantic.json"))) {
            JSON.readTree(in).properties().forEach(each -> schemas.put(each.getKey(), each.getValue()));
        }
        // a set, bounds of a float, and keys of a map that are an enumeration or have a pattern
        assertThat(write("Pydantic", schemas).refused())
                .containsExactlyInAnyOrder("Owner", "Probability", "ByColour", "ByPattern");
    }

    @Test
    void keepsToSchemasOfJackson() throws IOException {
        JsonSchemaGenerator generator = new JsonSchemaGenerator(JSON);
        Map<String, JsonNode> schemas = new LinkedHashMap<>();
        for (Class<?> type : TYPES) {
            schemas.put(type.getSimpleName(), JSON.valueToTree(generator.generateSchema(type)));
        }
        // it refers by URN to the type that it is inside of, and a set is asked to be one
        assertThat(write("Jackson's module", schemas, JsonMetaSchema.getV4()).refused())
                .containsExactlyInAnyOrder("Node", "Meeting");
    }

    @Test
    void keepsToSchemasOfTheGeneratorWithJacksonsAnnotations() {
        SchemaGenerator generator = new SchemaGenerator(
                new SchemaGeneratorConfigBuilder(SchemaVersion.DRAFT_2020_12, OptionPreset.PLAIN_JSON)
                        .with(new JacksonModule(JacksonOption.RESPECT_JSONPROPERTY_REQUIRED))
                        .build());
        Map<String, JsonNode> schemas = new LinkedHashMap<>();
        for (Class<?> type : TYPES) {
            schemas.put(type.getSimpleName(), generator.generateSchema(type));
        }
        assertThat(write("the generator of victools", schemas).refused()).isEmpty();
    }

    @Test
    void keepsToSchemasOfLangChain4j() {
        Map<String, JsonNode> schemas = new LinkedHashMap<>();
        for (Class<?> type : TYPES) {
            schemas.put(
                    type.getSimpleName(),
                    JSON.valueToTree(JsonSchemaElementJsonUtils.toMap(
                            JsonSchemas.jsonSchemaFrom(type).orElseThrow().rootElement())));
        }
        assertThat(write("LangChain4j", schemas).refused()).isEmpty();
    }

    private Outcome write(String source, Map<String, JsonNode> schemas) {
        return write(source, schemas, JsonMetaSchema.getV202012());
    }

    private Outcome write(String source, Map<String, JsonNode> schemas, JsonMetaSchema draft) {
        JsonSchemaFactory validators = validators(draft);
        Outcome all = new Outcome(new TreeSet<>(), new ArrayList<>(), schemas.size(), 0, 0);
        for (Map.Entry<String, JsonNode> each : schemas.entrySet()) {
            all = write(each.getKey(), each.getValue(), validators, all);
        }
        System.out.println(source + ": " + all);
        assertThat(all.wrong()).isEmpty();
        assertThat(all.cutOff()).isLessThan(all.written() / 20);
        return all;
    }

    private Outcome write(String name, JsonNode schema, JsonSchemaFactory validators, Outcome before) {
        List<JsonNode> answers = new ArrayList<>();
        try {
            for (int seed = 0; seed < SEEDS; seed++) {
                answers.add(answer(schema, seed));
            }
        } catch (KvfoldException e) {
            assertThat(e)
                    .hasMessageMatching(
                            "(?s)(no answer can be valid by the schema: .*|the schema at json_schema#.*\".*)");
            before.refused().add(name);
            return before;
        }
        JsonSchema validator = validators.getSchema(withoutDialect(schema), FORMATS_TOO);
        int cutOff = 0;
        for (JsonNode answer : answers) {
            String text = answer.path("content").asText();
            if (answer.path("stop_type").asText().equals("limit")) {
                cutOff++;
                continue;
            }
            try {
                Set<ValidationMessage> complaints = validator.validate(JSON.readTree(text));
                if (!complaints.isEmpty()) {
                    before.wrong().add(name + ": " + text + " " + complaints);
                }
            } catch (JsonProcessingException e) {
                before.wrong().add(name + ": " + text + " " + e.getOriginalMessage());
            }
        }
        return new Outcome(
                before.refused(),
                before.wrong(),
                before.schemas(),
                before.written() + answers.size() - cutOff,
                before.cutOff() + cutOff);
    }

    private JsonNode answer(JsonNode schema, int seed) {
        ObjectNode body = JSON.createObjectNode()
                .put("prompt", "Once")
                .put("seed", seed)
                .put("temperature", 1)
                .put("top_k", 0)
                .put("top_p", 1)
                .put("min_p", 0)
                .put("n_predict", 600);
        body.set("json_schema", schema);
        return engine.call("/completion", body);
    }

    /** The validator's own "email" asks besides for a domain that is registered at present. */
    private static JsonSchemaFactory validators(JsonMetaSchema draft) {
        JsonMetaSchema ours = JsonMetaSchema.builder(draft)
                .format(PatternFormat.of(
                        "email",
                        "^[A-Za-z0-9_+-]+(\\.[A-Za-z0-9_+-]+)*@([a-z0-9]([a-z0-9-]*[a-z0-9])?\\.)+[a-z]+$",
                        "format.email"))
                .build();
        return JsonSchemaFactory.builder()
                .defaultMetaSchemaIri(ours.getIri())
                .metaSchema(ours)
                .build();
    }

    /** All are of draft 2020-12; some name dialects that a server of the suite's would have. */
    private static JsonNode withoutDialect(JsonNode schema) {
        return schema instanceof ObjectNode object ? object.deepCopy().without("$schema") : schema;
    }

    // ---- types

    private static final List<Class<?>> TYPES =
            List.of(Person.class, Order.class, Node.class, Drawing.class, Numbers.class, Meeting.class);

    enum Colour {
        RED,
        @JsonProperty("grün")
        GREEN
    }

    record Address(@JsonProperty(required = true) String street, String city) {}

    record Person(
            @JsonProperty(required = true) @JsonPropertyDescription("of the family")
            String name,

            @JsonProperty(required = true) int age,
            Address address,
            Colour colour) {}

    record Item(@JsonProperty(required = true) String name, double price) {}

    record Order(@JsonProperty(required = true) List<Item> items, Map<String, Integer> counts, boolean paid) {}

    record Node(@JsonProperty(required = true) String name, List<Node> children) {}

    @JsonTypeInfo(use = JsonTypeInfo.Id.NAME, property = "kind")
    @JsonSubTypes({
        @JsonSubTypes.Type(value = Circle.class, name = "circle"),
        @JsonSubTypes.Type(value = Square.class, name = "square")
    })
    sealed interface Shape {}

    record Circle(@JsonProperty(required = true) double radius) implements Shape {}

    record Square(@JsonProperty(required = true) double side) implements Shape {}

    record Drawing(@JsonProperty(required = true) Shape shape) {}

    record Numbers(int small, long large, double real, BigDecimal exact, int[] many) {}

    record Meeting(UUID id, LocalDate day, Set<Colour> colours) {}
}
